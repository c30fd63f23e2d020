"""Other services' APIs: each translates to and from the same job, and nothing else.

``registered.py`` lists them for the app. This file imports nothing: workers load the bodies of some callbacks from
here, and no Flask with them.
"""
