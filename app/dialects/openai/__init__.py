"""OpenAI's API: images made, edited and varied by its own clients, at once, as a stream or later."""
