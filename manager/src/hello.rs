//! The program of the image `croze/hello`, put here by the build script.

include!(concat!(env!("OUT_DIR"), "/hello.rs"));
