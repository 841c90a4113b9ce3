"""Which agent takes which queued step run, pure: a snapshot in, a plan out."""
