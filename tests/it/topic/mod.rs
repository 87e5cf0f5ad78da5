//! What users are told of topics.

mod fan_out;
