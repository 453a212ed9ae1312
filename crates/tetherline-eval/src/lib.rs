//! Evaluation metrics and the run report.
