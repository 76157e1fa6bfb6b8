"""The Open Inference Protocol's messages over gRPC; generated, but for this file and the .proto."""
