//! CPU kernels for a trainable decoder: forward, backward and cached decoding over ragged rows.
