"""The HTTP service: images in, boxes with a second opinion out.

Request path: route -> body -> decode and letterbox (thread pool) -> batcher -> engine (worker process) ->
split -> response.
"""
