"""HTTP/1.1 as a service on the open internet needs it: uvicorn's protocol, with deadlines and bounds."""
