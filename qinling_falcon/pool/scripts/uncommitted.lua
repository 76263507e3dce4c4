-- uncommitted: which of some executions a process runs, or has not committed yet, or are lost and not recorded.
-- ARGV    2… executions
-- reads   holders, former, journal:<holder>, lost
-- returns those executions, some of them perhaps twice
-- cost      one command for each process that leases

local executions, found = {unpack(ARGV, 2)}, {}
local function look(hash)
  for at, value in ipairs(call('HMGET', hash, unpack(executions))) do
    if value then found[#found + 1] = executions[at] end
  end
end
for _, set in ipairs({HOLDERS, FORMER}) do
  for _, holder in ipairs(call('ZRANGE', set, 0, -1)) do look(journal_of(holder)) end
end
look(LOST)  -- after the journals, because an execution moves from a journal to the lost ones
return found
