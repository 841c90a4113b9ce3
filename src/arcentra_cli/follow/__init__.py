"""Following a run: what happens as pure state (`story`, `lines`), the reading (`reading`, `watch`), the screen."""
