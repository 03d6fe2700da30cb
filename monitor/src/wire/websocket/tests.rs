//! Tests of WebSocket messages.
