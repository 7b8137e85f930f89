//! The `strait` command.
#![forbid(unsafe_code)]

mod args;
mod bench;
mod command;
mod confirm;
mod demo;
mod dev;
mod fail;
mod interrupt;
mod lines;
mod offset;
mod out;
mod pipe;
mod start;
mod target;
mod text;

use std::process::ExitCode;

use clap::Parser;

use args::{BenchCommand, Cli, Command};
use command::{
    Ctx, backup, config, consume, describe, dlq, explain, export, group, inspect, man, mirror,
    produce, topic, upgrade, verify,
};
use fail::{Failure, Outcome};
use interrupt::Interrupt;
use out::Out;

/// Messages are made on one thread and freed on another, which the allocator of the C library takes hard.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let out = Out::new(&cli.global);
    log_to_stderr(cli.global.verbose, out.paint_err.is_on());
    let done = run(cli, &out);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(text) = failure.render(out.paint_err) {
                out.complain(text.trim_end());
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: Cli, out: &Out) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().min(4)))
        .enable_all()
        .build()
        .map_err(|error| strait::core::Error::io("the runtime", error))?;
    let done = runtime.block_on(async {
        let interrupt = Interrupt::listen()
            .map_err(|error| strait::core::Error::io("the signal handlers", error))?;
        let ctx = Ctx {
            global: cli.global,
            out: out.clone(),
            interrupt,
        };
        dispatch(cli.command, &ctx).await
    });
    // A thread that still waits for the terminal must not keep the process.
    runtime.shutdown_background();
    done
}

async fn dispatch(command: Command, ctx: &Ctx) -> Outcome {
    match command {
        // These take a signal as the wish to finish.
        Command::Dev(args) => dev::run(args, ctx).await,
        Command::Produce(args) => produce::run(args, ctx).await,
        Command::Consume(args) => consume::run(args, ctx).await,
        Command::Mirror(args) => mirror::run(args, ctx).await,
        other => tokio::select! {
            done = short(other, ctx) => done,
            signal = ctx.interrupt.wait() => Err(signal),
        },
    }
}

async fn short(command: Command, ctx: &Ctx) -> Outcome {
    match command {
        Command::Topic(command) => topic::run(command, ctx).await,
        Command::Group(command) => group::run(command, ctx).await,
        Command::Dlq(command) => dlq::run(command, ctx).await,
        Command::Bench(BenchCommand::Events(args)) => bench::run(args, ctx).await,
        Command::Bench(BenchCommand::Interleaved(args)) => bench::interleaved::run(args, ctx).await,
        Command::Bench(BenchCommand::Sustained(args)) => bench::sustained::run(args, ctx).await,
        Command::Bench(BenchCommand::Parked(args)) => bench::parked(args, ctx).await,
        Command::Bench(BenchCommand::Topics(args)) => bench::topics(args, ctx).await,
        Command::Backup(args) => backup::backup(args, ctx).await,
        Command::Restore(args) => backup::run_restore(args, ctx),
        Command::Verify(args) => verify::run(args, ctx),
        Command::Config(command) => config::run(command, ctx).await,
        Command::Explain(args) => explain::run(&args, &ctx.out),
        Command::Describe(args) => describe::run(args, ctx).await,
        Command::Inspect(args) => inspect::run(args, ctx),
        Command::Upgrade(args) => upgrade::run(args, ctx),
        Command::Export(args) => export::run_export(args, ctx).await,
        Command::Import(args) => export::run_import(args, ctx).await,
        Command::Completions(args) => explain::completions(&args, &ctx.out),
        Command::Man(args) => man::run(&args, &ctx.out),
        Command::Dev(_) | Command::Produce(_) | Command::Consume(_) | Command::Mirror(_) => {
            Err(Failure::usage("this command is not one of the short ones"))
        }
    }
}

fn log_to_stderr(verbose: u8, colour: bool) {
    let level = match verbose {
        0 => return,
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(level))
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .init();
}
