"""stub"""
from typing import Any
def draw(report: Any, mappings: Any) -> str:
    import pickle
    pickle.dump((report,mappings), open("/tmp/rep.pkl","wb"))
    return "<svg/>"
