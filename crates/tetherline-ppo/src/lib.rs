//! PPO: reward shaping, GAE, clipped losses and the update.
