//! Reward models from preference pairs, and rule rewards.
