-- set_limits: writes the limits for all processes, which the manager computes from its settings and measurements.
-- ARGV    2 leases of a function  3 of a project  4 of a runtime  5 max_workers  6 the cost of a start, in ms
--         7 waiting calls of all projects  8 of a project  9 of a function  10 leases for asynchronous executions
-- writes  concurrency, policy

call('HSET', CONCURRENCY, 'limit function', ARGV[2], 'limit project', ARGV[3], 'limit runtime', ARGV[4],
  'limit asynchronous', ARGV[10])
call('HSET', POLICY, 'max_workers', ARGV[5], 'start_ms', ARGV[6], 'waiting', ARGV[7], 'waiting of project', ARGV[8],
  'waiting of function', ARGV[9], 'calls of project', ARGV[3] + ARGV[8], 'calls of function', ARGV[2] + ARGV[9])
return 1
