//! The world outside, over libp2p.
