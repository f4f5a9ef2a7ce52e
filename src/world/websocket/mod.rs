//! WebSockets, as a client and as a server. Hides tungstenite and httparse.

pub mod client;
pub mod server;
