-- find: reads the detail of an execution that is not committed yet from the journals, or from those that are lost.
-- ARGV    2 execution
-- reads   holders, former, journal:<holder>, lost
-- returns the execution's detail, or nil
-- cost      one command for each process that leases

for _, set in ipairs({HOLDERS, FORMER}) do
  for _, holder in ipairs(call('ZRANGE', set, 0, -1)) do
    local detail = read_journal(holder, ARGV[2])
    if detail then return detail end
  end
end
-- After the journals, because an execution moves from a journal to the lost ones.
local value = call('HGET', LOST, ARGV[2])
if not value then return nil end
return (parse_journaled(value))
