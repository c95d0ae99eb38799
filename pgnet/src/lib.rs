//! PostgreSQL protocol 3: frames, messages, authentication in both directions, and the client library.
