-- workers: which workers hold a version of a function.
-- ARGV    5 what their target begins with: 'function:version:'
-- reads   idle, leases, worker:<id>      writes  nothing
-- returns those that can get another call, idle or leased

return holding(ARGV[5])
