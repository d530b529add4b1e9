"""HTTP/1.1 as a service on the open internet needs it: llhttp's parser, with deadlines and bounds around it."""
