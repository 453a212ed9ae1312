//! Batched sampling from a policy with log-probs captured on the way.
