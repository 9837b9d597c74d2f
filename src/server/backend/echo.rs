//! Answers with the last user message.
