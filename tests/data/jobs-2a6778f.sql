PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE api_key (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	revoked_at DOUBLE, 
	PRIMARY KEY (id)
);
CREATE TABLE event (
	job_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	at DOUBLE NOT NULL, 
	kind TEXT NOT NULL, 
	text TEXT NOT NULL, 
	PRIMARY KEY (job_id, number), 
	FOREIGN KEY(job_id) REFERENCES job (id)
);
INSERT INTO "event" VALUES('01a217a4e57b1b78cf55',1,1.79569301237099456782e+09,'state','queued');
INSERT INTO "event" VALUES('01a217a4e57b1b78cf55',2,1.79569301240901494027e+09,'state','running');
INSERT INTO "event" VALUES('01a217a4e57b1b78cf55',3,1.79569301678300046916e+09,'stage','load the model');
INSERT INTO "event" VALUES('01a217a4e57b1b78cf55',4,1.79569301823501443864e+09,'stage','export the dense model, prefill');
INSERT INTO "event" VALUES('01a217a4e57b1b78cf55',5,1.79569302697401332854e+09,'stage','factorize');
INSERT INTO "event" VALUES('01a217a4e57b1b78cf55',6,1.79569302699899816509e+09,'stage','collect statistics');
INSERT INTO "event" VALUES('01a217a4e57b1b78cf55',7,1795693071.199,'stage','measure the dense network, prefill');
INSERT INTO "event" VALUES('01a217a4e57b1b78cf55',8,1.79569307354201674461e+09,'stage','choose the ranks');
INSERT INTO "event" VALUES('01a217a4e57b1b78cf55',9,1.79569307369301176067e+09,'stage','measure round 1, prefill');
INSERT INTO "event" VALUES('01a217a4e57b1b78cf55',10,1.79569307536699175834e+09,'stage','measure the result, prefill');
INSERT INTO "event" VALUES('01a217a4e57b1b78cf55',11,1.79569307769898462291e+09,'stage','judge quality on held-out data');
INSERT INTO "event" VALUES('01a217a4e57b1b78cf55',12,1.79569309537899351124e+09,'stage','measure the sites in the network');
INSERT INTO "event" VALUES('01a217a4e57b1b78cf55',13,1.7956930975010097027e+09,'stage','write the result');
INSERT INTO "event" VALUES('01a217a4e57b1b78cf55',14,1.79569310289498567582e+09,'state','succeeded');
CREATE TABLE job (
	id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	spec TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	idempotency_key TEXT, 
	device TEXT NOT NULL, 
	state TEXT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	not_before DOUBLE NOT NULL, 
	started_at DOUBLE, 
	finished_at DOUBLE, 
	attempt INTEGER NOT NULL, 
	runner TEXT, 
	heartbeat_at DOUBLE, 
	cancel_requested INTEGER NOT NULL, 
	stage TEXT NOT NULL, 
	done INTEGER NOT NULL, 
	total INTEGER NOT NULL, 
	exit_code INTEGER, 
	error TEXT, 
	result TEXT, 
	revision INTEGER NOT NULL, 
	events INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (owner, idempotency_key), 
	CONSTRAINT state CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')), 
	CONSTRAINT failure_is_stated CHECK ((state = 'failed') = (error IS NOT NULL))
);
INSERT INTO "job" VALUES('01a217a4e57b1b78cf55','tune','{"activation_budget":null,"allocator":null,"allow_extrapolation":false,"backend":null,"batch_size":1,"calibration":null,"calibration_samples":32,"device":"cpu","dtype":null,"evaluation":null,"factorizer":"svd","flops_budget":null,"ignore":[],"isl":64,"jobs":null,"joint":true,"kv_cache_budget":null,"latency_budget":null,"measure_seconds":null,"memory_budget":null,"metric":null,"model":"code-llama-3m","osl":0,"params_budget":"0.9x","phase":null,"rounds":3,"seed":0,"sensitivity_rounds":0,"storage":"fp32","targets":[],"threads":null,"trials":0}','',NULL,'cpu','succeeded',1.79569301235598778728e+09,0.0,1795693012.40298,1.79569310280699586867e+09,1,'host/0',1.79569310280200695995e+09,0,'write the result',4,4,0,NULL,'{"backend":"onnxruntime-cpu","budget":{"parameters":"0.9x"},"cost":{"peak_memory_bytes":1990074368,"seconds":80.16268571800174},"dense_latency_s":0.0084788704989478,"dtype":"fp32","measured_latency_s":0.009425496999028837,"measured_ratio":1.0109674545516043,"measured_ratio_high":2.7790739985287827,"measured_ratio_low":0.9145991882720069,"model":"/srv/models/code-llama-3m","parameters":{"compressed":3127552,"dense":3475712},"predicted_latency_s":0.006780789584771059,"predicted_ratio":0.9350728970633401,"quality":{"compressed":59.099835016457014,"dense":58.196437917972744,"higher_is_better":false,"metric":"perplexity","protocol":"perplexity, non-overlapping windows of 64 tokens, 26964 tokens predicted"},"stored_bytes":{"compressed":12510208,"dense":13902848},"within_budget":true,"workload":{"batch_size":1,"output_length":0,"phase":"prefill","sequence_length":64}}',47,14);
CREATE INDEX ix_job_state ON job (state, id);
COMMIT;
