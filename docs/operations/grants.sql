-- What the default privileges of roles.sql leave out. Run as tidemark_owner after `tidemark migrate`; harmless to repeat.

GRANT UPDATE ON points, rollups, sources, heartbeats, imports TO tidemark_writer;
GRANT DELETE ON marks, imports TO tidemark_writer;
REVOKE INSERT ON retention, identity FROM tidemark_writer;

GRANT INSERT ON marks, ledger, series TO tidemark_operator;
GRANT INSERT, UPDATE ON rollups TO tidemark_operator;
GRANT DELETE ON points, dead_letters TO tidemark_operator;

GRANT INSERT ON points, marks, ledger, series TO tidemark_redriver;
GRANT UPDATE ON points TO tidemark_redriver;
GRANT DELETE, UPDATE (reason, detail, points, attempts) ON dead_letters TO tidemark_redriver;
