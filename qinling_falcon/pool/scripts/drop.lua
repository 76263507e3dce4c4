-- drop: removes executions whose records were deleted from all journals.
-- ARGV    2… executions
-- reads   holders, former
-- writes  lost, journal:<holder>
-- returns 1
-- promises  the executions are not recorded again as lost if their holder dies before it has acknowledged them
-- cost      one command for each process that leases

local executions = {unpack(ARGV, 2)}
call('HDEL', LOST, unpack(executions))
for _, set in ipairs({HOLDERS, FORMER}) do
  for _, holder in ipairs(call('ZRANGE', set, 0, -1)) do call('HDEL', journal_of(holder), unpack(executions)) end
end
return 1
