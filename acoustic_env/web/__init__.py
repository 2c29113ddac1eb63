"""The web application: one FastAPI application for all pages."""
