-- Roles of the raw store, each with what it needs and no more. Run once as a superuser, in Tidemark's database, before
-- `tidemark migrate`:   psql -v owner_password=… -v writer_password=… -v operator_password=… \
--   -v redriver_password=… -v reader_password=… -f roles.sql
--
--   tidemark_owner     owns the tables: `tidemark migrate`, `tidemark maintain`
--   tidemark_writer    the pipeline
--   tidemark_operator  `tidemark rebuild`, `tidemark delete`
--   tidemark_redriver  `tidemark redrive`
--   tidemark_reader    `tidemark verify`, `tidemark dead-letters`, `tidemark sources`, `tidemark status`, `tidemark advise`, dashboards

CREATE ROLE tidemark_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE tidemark_writer LOGIN PASSWORD :'writer_password';
CREATE ROLE tidemark_operator LOGIN PASSWORD :'operator_password';
CREATE ROLE tidemark_redriver LOGIN PASSWORD :'redriver_password';
CREATE ROLE tidemark_reader LOGIN PASSWORD :'reader_password';

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO tidemark_owner;
GRANT USAGE ON SCHEMA public TO tidemark_writer, tidemark_operator, tidemark_redriver, tidemark_reader;

SELECT current_database() AS db \gset
REVOKE ALL ON DATABASE :"db" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"db" TO tidemark_owner, tidemark_operator, tidemark_reader;
GRANT CONNECT, TEMPORARY ON DATABASE :"db" TO tidemark_writer, tidemark_redriver;

-- Who looks for what is slow must see the sessions of others.
GRANT pg_read_all_stats TO tidemark_reader;

-- For the tables that migrations make, today's and later ones.
ALTER DEFAULT PRIVILEGES FOR ROLE tidemark_owner IN SCHEMA public
    GRANT SELECT ON TABLES TO tidemark_writer, tidemark_operator, tidemark_redriver, tidemark_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE tidemark_owner IN SCHEMA public
    GRANT INSERT ON TABLES TO tidemark_writer;
