//! Any OpenAI-compatible API.
