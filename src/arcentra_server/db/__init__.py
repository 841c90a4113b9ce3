"""The only place that speaks SQL: tables, one query module an aggregate, the engine and the embedded PostgreSQL."""
