//! Tables of transitions, and clusters under faults.

mod cluster;
mod kit;
mod rows;
