"""What benchmarks, reliability, deploy and tests share: small models, images, a running service."""
