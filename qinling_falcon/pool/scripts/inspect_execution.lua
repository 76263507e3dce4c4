-- inspect_execution: which process and worker run an execution.
-- ARGV    2 execution
-- returns JSON: detail and holder, if a journal has the execution; worker, if it still runs the execution
-- cost      one command for each process that leases, and three for the worker

local answer = {found = false}
for _, set in ipairs({HOLDERS, FORMER}) do
  for _, holder in ipairs(call('ZRANGE', set, 0, -1)) do
    local detail, worker, token = read_journal(holder, ARGV[2])
    if detail then
      answer = {found = true, detail = detail, holder = holder}
      local is = worker and call('HMGET', record(worker), 'state', 'token') or {}
      if is[1] == 'leased' and is[2] == token then answer.worker = show_worker(worker) end
    end
  end
end
return cjson.encode(answer)
