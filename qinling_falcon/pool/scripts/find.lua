-- find: what the live lease of an execution holds.
-- ARGV    5 execution
-- reads   executions, worker:<id>      writes  nothing
-- returns the lease's detail, or nil

local worker = call('HGET', EXECUTIONS, ARGV[5])
return worker and call('HGET', P .. 'worker:' .. worker, 'detail')
