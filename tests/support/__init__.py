"""What several tests share: real servers and small real fakes."""
