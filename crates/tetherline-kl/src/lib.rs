//! KL estimators and controllers for RLHF: no tensors, no tokens, no files.
