"""The HTTP server: application, routes, queue, limits, logs; models that change while it runs."""
