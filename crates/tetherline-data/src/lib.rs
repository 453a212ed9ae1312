//! Prompt, demonstration and preference files: reading, checking, chat templates.
