//! Hugging Face model directories: load, run, train and save.
