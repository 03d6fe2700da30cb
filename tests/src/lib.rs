//! Live tests of Tollgate.
