-- inspect_execution: which process and worker run an execution.
-- include: limits workers queues leases inspection
-- ARGV    2 execution  3 the most leases to look at
-- returns JSON: detail and holder, if a journal has the execution; worker, if its lease is among those looked at

local answer = {found = false}
for _, set in ipairs({HOLDERS, FORMER}) do
  for _, holder in ipairs(call('ZRANGE', set, 0, -1)) do
    local detail = call('HGET', journal_of(holder), ARGV[2])
    if detail then answer = {found = true, detail = detail, holder = holder} end
  end
end
if answer.found then
  for _, worker in ipairs(call('ZREVRANGE', LEASES, 0, tonumber(ARGV[3]) - 1)) do
    if call('HGET', record(worker), 'execution') == ARGV[2] then
      answer.worker = show_worker(worker)
      break
    end
  end
end
return cjson.encode(answer)
