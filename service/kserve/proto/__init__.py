"""The messages of the protocol over gRPC."""
