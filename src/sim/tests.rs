//! Tests of the simulator, and, by planted faults, of its checkers.
