"""The reference agent: joins a control plane, runs its step runs and streams their logs."""
