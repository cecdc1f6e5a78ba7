//! Join rate, first byte, latency, throughput and memory of real binaries.
