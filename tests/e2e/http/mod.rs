//! The API of the agents and its stream, over plain sockets.

mod abuse;
mod api;
mod stream;
mod tokens;
