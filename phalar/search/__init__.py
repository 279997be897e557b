"""Index a library of stems, and search it for what fits: on disk, and local."""

from phalar.search.build import Built, How, update
from phalar.search.moment import Moment
from phalar.search.query import Found, Searcher, Wanted
from phalar.search.store import Index, open_index

__all__ = ["Built", "Found", "How", "Index", "Moment", "Searcher", "Wanted", "open_index", "update"]
