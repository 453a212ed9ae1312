//! The KL to the reference after each update: as logged, and where it was measured again.

use super::plot::{Line, Plot};

/// A figure of logged and measured KL, nats per sequence by updates done, with what the controller did.
pub(crate) fn figure(
    logged: Vec<(f64, f64)>,
    measured: Vec<(f64, f64)>,
    marks: Vec<(f64, String)>,
) -> String {
    let logged = Line { name: "logged".into(), class: "grey", points: logged, thin: true, ..Line::default() };
    let measured = Line { name: "measured".into(), class: "c1", points: measured, ..Line::default() };
    let lines = [logged, measured].into_iter().filter(|l| !l.points.is_empty()).collect();
    let plot = Plot {
        title: "KL to the reference".into(),
        unit: "nats per sequence".into(),
        x_label: "updates".into(),
        lines,
        marks,
        from_zero: true,
        ..Plot::default()
    };
    plot.figure()
}
