from tests.store.conftest import server, url

__all__ = ["server", "url"]
