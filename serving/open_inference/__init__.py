"""The Open Inference Protocol (KServe's v2), as both transports speak it."""
