//! Compiles the code in the README as a doctest.

#[doc = include_str!("../README.md")]
struct Readme;
