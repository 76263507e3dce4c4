-- drop: removes an execution whose record was deleted from all journals.
-- ARGV    2 execution
-- reads   holders, former
-- writes  lost, journal:<holder>
-- returns 1
-- promises  the execution is not recorded again as lost if its holder dies before it has acknowledged it
-- cost      one command for each process that leases

call('HDEL', LOST, ARGV[2])
for _, set in ipairs({HOLDERS, P .. 'former'}) do
  for _, holder in ipairs(call('ZRANGE', set, 0, -1)) do call('HDEL', journal_of(holder), ARGV[2]) end
end
return 1
