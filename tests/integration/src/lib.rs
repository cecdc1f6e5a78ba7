//! Real processes in network namespaces.
